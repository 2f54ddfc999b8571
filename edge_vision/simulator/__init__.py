"""The conveyor: a simulated inspection line that is demo, test bed and source of training data."""
