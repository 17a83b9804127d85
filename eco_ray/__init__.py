"""eco_ray: AI training and serving on Ray, where and when the electricity is cleanest."""

__version__ = "0.1.0"
