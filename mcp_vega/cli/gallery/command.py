"""`mcp-vega gallery`: shows the page of the pictures, or does something with their folder."""

from argparse import Namespace
from collections.abc import Mapping

from mcp_vega.cli.gallery.folder import show_folder
from mcp_vega.cli.gallery.prune import prune
from mcp_vega.errors import InvalidArguments
from mcp_vega.settings import Settings


def run_gallery(options: Namespace, environment: Mapping[str, str]) -> int:
    """Serve the page of the pictures; or print, open or prune their folder; returns the exit code.

    Raises:
        InvalidArguments: Options do not fit together, or --prune has nobody to ask.
        PortTaken: The port of the page cannot be used.
        LedgerError: The ledger cannot be read or changed.
    """
    settings = Settings.from_environment(environment)
    of_folder = options.folder or options.open or options.prune is not None
    if options.yes and options.prune is None:
        raise InvalidArguments("--yes goes with --prune", next_step="Add --prune DAYS, or leave --yes out")
    if of_folder and (options.print or options.page_port is not None):
        said = "--print and --port are for the page; --folder, --open and --prune are for the folder"
        raise InvalidArguments(said, next_step="Leave out the options of the page, or those of the folder")
    not_pruned = options.prune is not None and not prune(settings, options.prune, confirmed=options.yes)
    if of_folder:
        return show_folder(settings, environment, is_opened=options.open) or int(not_pruned)
    from mcp_vega.cli.gallery.page import show_page

    return show_page(settings, environment, options.page_port or 0, in_browser=not options.print)
