#!/bin/sh
# What Serve starts as its HAProxy: eco_ray/on_ray/haproxy.py says what it closes.
exec python -m eco_ray.on_ray.haproxy "$@"
