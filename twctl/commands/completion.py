"""`twctl completion`: what a shell needs to complete calls of `twctl`."""

from typing import Annotated, Final

import typer

from twctl.commands.options import Verb
from twctl.render import print_text


# Each asks `twctl __complete SHELL WORD...` with the words up to the cursor, and has
# the shell complete files where that fails.
SCRIPTS: Final = {
    "bash": """\
_twctl() {
    local IFS=$'\\n' word last= before= words=()

    # What was divided at = and : is one word to us, and only its last part to bash.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        if [[ ${#words[@]} -gt 0 && ($word == [=:]* || $last == *[=:]) ]]; then
            words[-1]+=$word
            before=${words[-1]%"${words[-1]##*[=:]}"}
        else
            words+=("$word")
            before=
        fi
        last=$word
    done

    COMPREPLY=($(twctl __complete bash "${words[@]}" 2>/dev/null)) ||
        compopt -o bashdefault -o default
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -F _twctl twctl""",
    "zsh": """\
#compdef twctl
_twctl() {
    local printed
    local -a found
    if printed=$(twctl __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null); then
        found=(${(f)printed})
        _describe twctl found
    else
        compset -P '--*='
        _files
    fi
}
compdef _twctl twctl""",
    "fish": """\
function __twctl_complete
    set -l words (commandline -opc) (commandline -ct)
    set -g __twctl_found (twctl __complete fish $words[2..-1] 2>/dev/null)
end
complete -c twctl -n __twctl_complete -f -a '$__twctl_found'""",
}

verb = Verb()


@verb
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish")],
) -> int:
    """Print what has a shell complete verbs, options, contexts and jobs.

    In ~/.bashrc: eval "$(twctl completion bash)". In ~/.zshrc, after compinit:
    eval "$(twctl completion zsh)". For fish: twctl completion fish >
    ~/.config/fish/completions/twctl.fish
    """
    if shell not in SCRIPTS:
        raise typer.BadParameter(
            f"{shell!r} is not {', '.join(SCRIPTS)}", param_hint="SHELL"
        )

    print_text(SCRIPTS[shell])
    return 0
