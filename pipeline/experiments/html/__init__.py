"""Static pages to look at and listen to: what was aligned and recognised, with sound, and how the systems compare."""
