"""What every part of a run leans on: devices, processes, files, seeds, stopping, and texts for people."""
