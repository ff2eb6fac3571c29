"""Programs that are compiled for devices which this machine has not, and what their text says."""
