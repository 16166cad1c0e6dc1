"""Language-conditioned robot policies: data, training, evaluation and inference."""

__version__ = "0.1.0"
