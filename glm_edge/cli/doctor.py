"""`glm-edge doctor`: what this machine will do and what stands in its way. The checks are in tools/doctor/."""

from __future__ import annotations

from pathlib import Path

import click

from .model import model_option
from .number import WholeNumber


@click.command("doctor")
@model_option
@click.option("--port", type=WholeNumber(1, 65535), default=8000, show_default=True, help="The port to look at.")
@click.option("--adapter", "adapters", type=click.Path(path_type=Path), multiple=True, help="Check this adapter, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead.")
@click.pass_context
def command(context: click.Context, model: Path | None, port: int, adapters: tuple[Path, ...], as_json: bool) -> None:
    """Look at this machine for at most 5 seconds: what fits, how fast it will be, and what to mend.

    Needs no root and no network. Exits with 0 when a chat will work, with 1 when it will not.
    """
    import platformdirs

    from ..system.default_model import read_default
    from ..system.profile import profile_path
    from ..tools.doctor import report
    from ..tools.doctor.examine import examine
    from ..tools.doctor.host import Host
    from .names import find_model

    folders = {
        "data": Path(platformdirs.user_data_dir("glm-edge", appauthor=False)),
        "cache": Path(platformdirs.user_cache_dir("glm-edge", appauthor=False)),
        "settings": Path(platformdirs.user_config_dir("glm-edge", appauthor=False)),
    }
    if model is not None:
        model = find_model(model)
    elif (default := read_default()) is not None:
        model = default.model
    found = examine(Host(), model, folders, port, adapters=adapters, profiles=profile_path())
    click.echo(report.as_json(found) if as_json else report.as_text(found))
    context.exit(0 if found.ok else 1)
