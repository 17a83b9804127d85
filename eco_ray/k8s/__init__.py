"""RayJobs of a Kubernetes cluster, held by `spec.suspend` until their planned start (docs/suspend-controller.md).

rayjob      what a RayJob object says: where it is, what its annotations ask for
decision    object, forecasts, time -> what to do with it, and the patch that does it; pure
signal      forecasts by zone, from one grid source
keeper      the loop: looks at all RayJobs again and again, and does what was decided
api         the two requests that act: read one RayJob, patch one
operator    kopf: lists, watches, logs in, posts events
"""
