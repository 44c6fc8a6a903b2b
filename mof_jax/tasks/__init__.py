"""Tasks, one short file each: model + loss + what evaluators may ask."""
