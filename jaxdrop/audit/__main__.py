"""`python -m jaxdrop.audit module:function`."""

import sys

from jaxdrop.audit._cli import main

if __name__ == "__main__":
    sys.exit(main())
