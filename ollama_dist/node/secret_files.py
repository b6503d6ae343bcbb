"""The secrets a node keeps in files: where each is looked for, and how a missing one is made."""

from pathlib import Path

from ollama_dist.core.errors import ConfigError
from ollama_dist.node.config import Settings
from ollama_dist.node.paths import StatePaths
from ollama_dist.node.setting_values import Secret, parse_secret
from ollama_dist.runtime.private_files import write_private


def admin_token_file(settings: Settings) -> Path:
    return settings.admin.admin_token_file or StatePaths(settings.node.state_dir).admin_token


def find_admin_token(settings: Settings) -> Secret | None:
    """The operators' token: the one that was set, else the one in its file; None when there is none yet."""
    return settings.admin.admin_token or read_secret(admin_token_file(settings))


def make_admin_token(settings: Settings) -> Secret:
    """The operators' token; one of 256 bits is made and kept when there is none. Raises `ConfigError`."""
    token = find_admin_token(settings)
    if token is None:
        token = new_admin_token()
        write_secret(admin_token_file(settings), token)
    return token


def new_admin_token() -> Secret:
    """One of 256 bits."""
    import secrets  # for who makes one; most commands only read

    return Secret(secrets.token_urlsafe(32))


def cluster_key_file(settings: Settings) -> Path:
    return settings.cluster.cluster_key_file or StatePaths(settings.node.state_dir).cluster_key


def find_cluster_key(settings: Settings) -> Secret | None:
    """The cluster's key as text, not yet checked; None when this node belongs to no cluster yet."""
    return settings.cluster.cluster_key or read_secret(cluster_key_file(settings))


def read_secret(path: Path) -> Secret | None:
    """The secret in a file, None when there is no such file.

    Raises `ConfigError` when it cannot be read or is empty: an empty secret proves nothing.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not text:
        raise ConfigError(f"{path} is empty; delete it or put the secret in it")
    try:
        return parse_secret(text)
    except ValueError as error:
        raise ConfigError(f"{path} {error}") from error


def write_secret(path: Path, secret: Secret) -> None:
    """Keep the secret where only its owner can read it. Raises `ConfigError`."""
    try:
        write_private(path, secret.reveal() + "\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
