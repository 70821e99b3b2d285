"""Which jobs a verb is for: those that are named, or all that fit filters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from teleworkerd.protocol.errors import JobNotFound
from teleworkerd.protocol.messages import ListRequest
from teleworkerd.protocol.responses import ListResponse
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState
from twctl.blocking import BlockingSession
from twctl.commands.filters import Filters, parse_filters
from twctl.commands.options import job_ref, parsed
from twctl.listing import Listing
from twctl.render import print_notice


ALL = tuple(JobState)
LIVE = tuple(state for state in JobState if not state.is_final)
ENDED = tuple(state for state in JobState if state.is_final)

Refs = Annotated[
    list[str] | None,
    typer.Argument(metavar="JOB...", help="IDs, prefixes or names."),
]

FilterTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="FILTER",
        help="Instead of JOB, all with state=…, label=K=V or name=….",
    ),
]


@dataclass(frozen=True, slots=True)
class Choice:
    """The jobs `refs`, or all of the caller's in one of `states` that fit `filters`."""

    refs: tuple[str, ...] = ()
    filters: Filters | None = None
    states: tuple[JobState, ...] = LIVE

    @property
    def request(self) -> ListRequest | None:
        """What finds those that fit; None if none can."""
        filters = self.filters or Filters()
        wanted = filters.states or self.states
        states = tuple(state for state in self.states if state in wanted)
        labels = filters.labels
        return ListRequest(0, states, filters.name, labels) if states else None


def chosen(
    jobs: Sequence[str] | None,
    filters: Sequence[str] | None,
    *,
    states: tuple[JobState, ...] = LIVE,
) -> Choice:
    """Return the jobs that were named, or what others in *states* have to fit.

    Raises a usage error unless it is one of the two.
    """
    if jobs and filters:
        raise typer.BadParameter("give one of the two", param_hint="JOB / '--filter'")

    if filters:
        wanted = parsed(parse_filters, filters, "--filter")
        return Choice(filters=wanted, states=states)

    if not jobs:
        raise typer.BadParameter("name a job, or give --filter", param_hint="JOB")

    return Choice(tuple(job_ref(job) for job in jobs))


def find(session: BlockingSession, choice: Choice) -> tuple[str, ...]:
    """Return the jobs of *choice*; says so if none fits."""
    if choice.filters is None:
        return choice.refs

    request = choice.request
    found = [] if request is None else read_pages(session, request)

    if not found:
        print_notice("no job fits")

    return tuple(job.id for job in found)


def read_pages(
    session: BlockingSession, request: ListRequest, limit: int | None = None
) -> list[JobStatus]:
    """Return what *request* asks for, page by page, at most *limit* jobs."""
    listing = Listing(request, limit)

    while (following := listing.next_request) is not None:
        try:
            listing.add(session.ask(following, ListResponse))
        except JobNotFound:
            if not listing.go_back():
                raise

    return listing.jobs
