"""A page that a server shows besides its own. The door hands it to the server, because rooms do not import each other.

serve_checkpoints(arguments, config, device="auto", pages=[runs_page(config.paths)])
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.routing import BaseRoute


@dataclass(frozen=True)
class ExtraPage:
    """`path` opens the page; `stop` ends its endless answers, which would hold up the server's shutdown."""

    name: str
    path: str
    routes: Sequence[BaseRoute]
    stop: Callable[[], None]
