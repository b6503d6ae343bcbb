"""Checks of what runs models here: the local Ollama and the embedded engine."""

import json
import re
import shutil
from importlib.util import find_spec
from typing import Final

from ollama_dist.cli.examination import Check, Situation, Verdict, failed, passed, skipped, warned
from ollama_dist.cli.exchange import BadAnswer, ask
from ollama_dist.node.setting_values import OLLAMA_PORT, Address, EngineChoice

SAFE_OLLAMA: Final = (0, 17, 1)
"""Older ones leak heap memory to whoever can reach them."""

_PATIENCE_S: Final = 2.0


def check_ollama(situation: Situation) -> Verdict:
    choice = situation.settings.engine.engine
    if choice in (EngineChoice.NONE, EngineChoice.LLAMACPP):
        return skipped(f"not used here: engine is {choice}")
    if situation.status is not None:
        return _as_the_node_says(situation)
    address = situation.settings.engine.ollama or Address("127.0.0.1", OLLAMA_PORT)
    version, error = ask_version(address)
    if version is not None:
        return passed(f"Ollama {version} answers at {address}")
    program = shutil.which(situation.settings.engine.ollama_bin)
    if situation.settings.engine.ollama is None and program:
        return passed(f"none is listening; the node will start {program}")
    if choice is EngineChoice.AUTO and situation.settings.engine.ollama is None and _has_embedded_engine():
        return warned("no Ollama; only GGUF files can be served, by the embedded engine", _INSTALL)
    return failed(f"{address}: {error}", "ollama serve" if program else _INSTALL)


def check_ollama_version(situation: Situation) -> Verdict:
    if situation.status is not None:
        if situation.status.engine_kind != "ollama" or not situation.status.engine_version:
            return skipped("the node uses no Ollama now")
        return judge_version(situation.status.engine_version)
    if situation.settings.engine.engine in (EngineChoice.NONE, EngineChoice.LLAMACPP):
        return skipped("no Ollama is used here")
    version, _ = ask_version(situation.settings.engine.ollama or Address("127.0.0.1", OLLAMA_PORT))
    return skipped("no Ollama answers now") if version is None else judge_version(version)


def judge_version(text: str) -> Verdict:
    """Whether this Ollama is one that can be exposed to others."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    floor = ".".join(map(str, SAFE_OLLAMA))
    if found is None or found[0] == "0.0.0":
        return warned(
            f"version {text!r} does not tell whether it is at least {floor}", "install a released Ollama"
        )
    if tuple(map(int, found.groups())) < SAFE_OLLAMA:
        return warned(f"{text} is older than {floor}, which closed a leak of other users' memory", _INSTALL)
    return passed(f"{text}, at least {floor}")


def check_embedded_engine(situation: Situation) -> Verdict:
    choice = situation.settings.engine.engine
    if _has_embedded_engine():
        return passed("installed; it serves GGUF files where there is no Ollama")
    fix = "pip install 'ollama-dist[engine]'"
    if choice is EngineChoice.LLAMACPP:
        return failed("engine is llama.cpp, and the extra `engine` is not installed", fix)
    return skipped(f"not installed, not needed with an Ollama ({fix})")


def check_models_on_disk(situation: Situation) -> Verdict:
    """Whether the running node can give its models to others, and get theirs."""
    if situation.status is None:
        return skipped("the node is not running")
    if situation.status.engine_kind in ("", "none"):
        return skipped("the node has no engine")
    for problem in situation.status.problems:
        if problem.code in ("store_unreadable", "registry_closed"):
            return warned(problem.message, problem.fix)
    return passed("the node reads its engine's models and can bring it others")


def ask_version(address: Address) -> tuple[str | None, str]:
    """The version an Ollama answers at this address, or None and why there is none."""
    try:
        answer = json.loads(ask(address, "GET", "/api/version", patience_s=_PATIENCE_S).content)
        return str(answer["version"]), ""
    except ConnectionRefusedError:
        return None, "nobody is listening"
    except TimeoutError:
        return None, f"no answer within {_PATIENCE_S:g} s"
    except OSError as error:
        return None, error.strerror or str(error)
    except (BadAnswer, ValueError, KeyError, TypeError):
        return None, "what answers there is no Ollama"


def _as_the_node_says(situation: Situation) -> Verdict:
    status = situation.status
    assert status is not None
    name = f"{status.engine_kind} {status.engine_version}".rstrip()
    if status.engine_kind in ("", "none"):
        return warned("the node found no engine on this machine", _INSTALL)
    if status.engine_state == "unreachable":
        return failed(
            status.engine_error or f"{name} at {status.engine_address} does not answer", "ollama serve"
        )
    return passed(f"{name} at {status.engine_address} is {status.engine_state}")


def _has_embedded_engine() -> bool:
    return find_spec("xllamacpp") is not None


_INSTALL: Final = "install Ollama: https://ollama.com/download"

CHECKS: Final = (
    Check("engine_unreachable", "Ollama", check_ollama),
    Check("ollama_old", "Ollama version", check_ollama_version),
    Check("engine_extra", "embedded engine", check_embedded_engine),
    Check("store_unreadable", "models on disk", check_models_on_disk),
)
