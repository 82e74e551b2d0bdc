"""Places other than a local folder that hold published versions."""
