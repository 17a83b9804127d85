# One image for heads, workers, submitters and the suspend controller. Build it in this folder:
#     docker build -t REGISTRY/eco-ray:0.1.0 .
FROM python:3.11.14-slim-trixie AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY eco_ray eco_ray
RUN pip install --no-cache-dir --prefix=/install '.[crypt,demo,k8s,onnx,postgres,s3,text,train]' -c constraints.txt

FROM python:3.11.14-slim-trixie
# KubeRay's own probes call wget
RUN apt-get update \
 && apt-get install -y --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --home-dir /tmp --no-create-home eco-ray
COPY --from=build /install /usr/local
COPY --chmod=0555 k8s/haproxy.sh /usr/local/bin/eco-ray-haproxy
COPY jobs /opt/eco-ray/jobs
WORKDIR /opt/eco-ray
ENV RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
USER 1000:1000
CMD ["eco-ray", "--help"]
