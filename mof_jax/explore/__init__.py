"""What the notebooks call: runs, models, laws and plans as tables and pictures. Nothing here trains but `runs.ensure`."""
