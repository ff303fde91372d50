"""`tuneflow down`: end what `up` started in a workspace, and forget it."""

from collections.abc import Callable
from pathlib import Path

from tasks.services.daemons import Ended, end
from tasks.services.starting import only_one
from tasks.services.state import forget_services, read_services, services_folder


def end_services(workspace: Path, tell: Callable[[str], None] = lambda _: None) -> Ended:
    """End every service of a workspace and every run that one started; nothing where nothing is up.

    Raises:
        InputError: another `up` or `down` is at work there.
    """
    if not services_folder(workspace).is_dir():
        return Ended((), 0)
    with only_one(workspace):
        services = read_services(workspace)
        ended = end(services, tell=tell) if services else Ended((), 0)
        forget_services(workspace)
    return ended
