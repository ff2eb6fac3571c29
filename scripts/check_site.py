#!/usr/bin/env python3
"""Opens every page of the site in a browser without a window, and reports what is wrong with it.

    ./scripts/docs
    pip install playwright && playwright install chromium-headless-shell
    python scripts/check_site.py
    python scripts/check_site.py --only 'idea*' --screenshots out/site  # pictures to look at
    python scripts/check_site.py --browser /usr/bin/chromium  # one that is installed already

Each page is shown on a wide screen (1280 pixels) and on a phone (390), light and dark. A fault is:
a link to a file or an anchor that is not there; an image that does not load or has no alternative
text; a page that scrolls to the side, or cuts off what is wider (tables and code may scroll in
themselves); text whose contrast is below that of WCAG's level AA, and pictures with a transparent
ground that vanish in a theme; an error or a warning of a script; a request that fails, or goes to
another site. `--external` asks other sites for the pages that are linked. The status is 1 if
anything is wrong.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import sys
from pathlib import Path

from website import browser, links
from website.faults import report

_ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", type=Path, default=_ROOT / "docs" / "_build" / "html")
    parser.add_argument("--only", default="*", help="a pattern of paths, such as 'api/*'")
    parser.add_argument("--browser", help="the path of a Chromium; playwright's by default")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of the pages")
    parser.add_argument("--contrast", type=float, default=4.5, help="what text must have")
    parser.add_argument("--external", action="store_true", help="also links to other sites")
    parser.add_argument("--links-only", action="store_true", help="without a browser")
    args = parser.parse_args()
    pages = [
        page
        for page in sorted(args.site.rglob("*.html"))
        if fnmatch.fnmatch(page.relative_to(args.site).as_posix(), args.only)
        and "_static" not in page.parts
    ]
    if not pages:
        parser.error(f"no page of {args.site} fits {args.only!r}: run ./scripts/docs first")
    found = links.broken(args.site, pages)
    if args.external:
        found = itertools.chain(found, links.unreachable(args.site, pages))
    if not args.links_only:
        if args.screenshots:
            args.screenshots.mkdir(parents=True, exist_ok=True)
        shown = browser.looked_at(
            args.site,
            pages,
            browser=args.browser,
            screenshots=args.screenshots,
            contrast=args.contrast,
        )
        found = itertools.chain(found, shown)
    faults = [*found]
    print(report(faults) or f"{len(pages)} pages: nothing is wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
