from eco_ray.models.digits import Digits


def load_runtime(path, name, version, **_):
    return Digits(path, name, version)
