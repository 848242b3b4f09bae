"""AudioSet's classes, the graph over them and its distances."""
