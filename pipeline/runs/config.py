"""The `runs` section of the configuration: the runs page."""

from dataclasses import dataclass

from utils.options import option


@dataclass(frozen=True)
class RunsConfig:
    """The runs page."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 opens it to the network")
    port: int = option(8001, "TCP port; 0: a free one", minimum=0, maximum=65_535)
