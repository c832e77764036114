"""The exercises of each notebook: `ch01a.py` holds those of notebook 01a."""
