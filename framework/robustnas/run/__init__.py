"""Running a plan: folders that survive crashes, stages side by side, progress a person can follow."""
