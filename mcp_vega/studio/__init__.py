"""Jobs and their pictures: every paid call carried to its end, every picture kept."""
