"""What a policy can be asked to do, and whether it was done."""
