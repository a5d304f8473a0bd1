"""What benches/compare and benches/scaling share. Python's standard library only."""
