"""Check the Hugging Face hub: whether it is reachable, the login, and what is needed from it.

Makes a single request, which checks whether this login has access to LIMA, which is gated.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.error import HTTPError, URLError

from pipeline.configuration import Config
from pipeline.doctor.disk import is_complete
from pipeline.doctor.findings import Finding, note, ok, problem
from pipeline.doctor.time_limit import within
from pipeline.tuning.config import LIMA, RAW_NAME
from utils.terminal import short_path

HUB = "https://huggingface.co"
SECONDS = 2.0
_LOG_IN = f"accept the terms at {HUB}/datasets/{LIMA} and run: hf auth login (or set HF_TOKEN)"


@dataclass(frozen=True)
class Answer:
    """The hub's answer. `reason`: why it is unreachable; `status`: the HTTP status of the access check for LIMA."""

    status: int | None = None
    reason: str = ""
    has_token: bool = False


def check_hub(config: Config, *, seconds: float = SECONDS) -> list[Finding]:
    return judge(ask_hub(seconds), needed_from_hub(config), has_conversations=has_conversations(config))


def judge(answer: Answer, needed: Mapping[str, str], *, has_conversations: bool) -> list[Finding]:
    """Findings from the hub's answer; being offline is a problem only if the route needs the hub."""
    if answer.reason:
        found = f"cannot be reached ({answer.reason})"
        if needed:
            remedy = f"connect to a network, or {', or '.join(needed.values())}"
            return [problem("hub", f"{found}, needed for {' and '.join(needed)}", remedy)]
        return [note("hub", f"{found}; the route needs nothing from it")]
    if answer.status == 200:
        return [ok("hub", f"reachable, logged in, with access to {LIMA}")]
    login = "logged in" if answer.has_token else "not logged in"
    if has_conversations:
        return [ok("hub", f"reached, {login}")]
    if answer.status in (401, 403):
        return [note("hub", f"reachable, {login}; no access to {LIMA} (gated; needed only for sft)", _LOG_IN)]
    return [note("hub", f"reachable, {login}; it answered {answer.status} for {LIMA} (needed only for sft)", _LOG_IN)]


def needed_from_hub(config: Config) -> dict[str, str]:
    """What the route still needs from the hub, with the alternative for each."""
    needed = {}
    if not any(config.paths.tokenizer_dir.glob("tokenizer.*")):
        place = f"put its tokenizer.json into {short_path(config.paths.tokenizer_dir)}"
        needed[f"the tokenizer {config.tokenizer.name}"] = place
    if config.dataset.source == "fineweb" and not is_complete(config.dataset.directory(test=False)):
        shards = "use downloaded shards: python3 main.py fineweb --source DIR"
        needed[f"{config.fineweb.name} ({config.fineweb.subset})"] = shards
    return needed


def has_conversations(config: Config) -> bool:
    folder = config.paths.post_training_dir
    return is_complete(folder) or (folder / RAW_NAME).exists()


def ask_hub(seconds: float = SECONDS) -> Answer:
    """Check whether this login has access to LIMA; gives up after `seconds`, including the DNS lookup."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Answer(reason="HF_HUB_OFFLINE is set")
    try:
        return within(seconds, lambda: _request(seconds))
    except TimeoutError:
        return Answer(reason=f"no answer within {seconds:g} s")


def _request(seconds: float) -> Answer:
    from utils.hub_connection import hub_request, open_url

    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    request = hub_request(f"{endpoint}/api/datasets/{LIMA}/auth-check")
    has_token = request.has_header("Authorization")
    try:
        response, _ = open_url(request, timeout=seconds)
        with response:
            return Answer(response.status, has_token=has_token)
    except HTTPError as error:
        return Answer(error.code, has_token=has_token)
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Answer(reason=str(getattr(reason, "strerror", None) or reason))
