"""How few grams served models can take, on Ray: what `core` decides is done here (docs/green-serving.md)."""
