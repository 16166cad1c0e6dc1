"""Acting with a trained policy: one robot or simulator, one prompt at a time."""
