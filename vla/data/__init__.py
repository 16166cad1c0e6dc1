"""Episodes on disk (LeRobot v3.0), their segments and their statistics."""
