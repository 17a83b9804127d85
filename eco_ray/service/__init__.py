"""One model behind HTTP: an ASGI application without a framework. No Ray; `on_ray.hosting` puts it into a replica."""
