"""Shows samples of what jobs use: as JSON, as tables, or live on a terminal."""

import sys
from contextlib import aclosing

from teleworkerd.protocol.messages import TopRequest
from twctl.client import Client
from twctl.commands.loop import run_loop, while_read
from twctl.daily import warn_daily
from twctl.profile import Profile
from twctl.render import (
    OutputForm,
    is_screen,
    print_json,
    print_notice,
    print_text,
    sample_object,
)
from twctl.sampling import Sample
from twctl.usage import sample_text


def watch(
    profile: Profile, request: TopRequest, count: int | None, form: OutputForm
) -> int:
    """Show *count* samples, or as many as come until Ctrl-C; return the exit code."""
    if count is None and form is OutputForm.TEXT and is_screen(sys.stdout):
        from twctl.commands.screen import show_live  # noqa: PLC0415 - it brings rich

        return run_loop(show_live(profile, request))

    return run_loop(while_read(_print(profile, request, count, form)))


async def _print(
    profile: Profile, request: TopRequest, count: int | None, form: OutputForm
) -> int:
    shown = 0
    first: Sample | None = None

    async with (
        Client(profile, notice=print_notice, warn=warn_daily) as client,
        # The first sample has no rates yet: it is what the second is compared with.
        aclosing(client.samples(request)) as samples,
    ):
        async for sample in samples:
            if first is None:
                first = sample
                continue

            _print_sample(sample, request, form, is_next=shown > 0)
            sys.stdout.flush()
            shown += 1

            if shown == count:
                break

    if first is not None and not shown:  # all had ended by then
        _print_sample(first, request, form, is_next=False)

    return 0


def _print_sample(
    sample: Sample, request: TopRequest, form: OutputForm, *, is_next: bool
) -> None:
    if form is OutputForm.JSON:
        print_json(sample_object(sample))
        return

    if is_next:
        print_text("")

    print_text(sample_text(sample, with_owners=request.owner is not None))
