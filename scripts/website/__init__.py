"""What `scripts/check_site.py` asks of the pages that Sphinx made."""
