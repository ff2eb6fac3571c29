"""What is dropped, one file a kind. The public names are re-exported by `jaxdrop`."""
