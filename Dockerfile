# Two images of one source: `sidecar` runs beside training jobs, `services` in the cluster (injector,
# collector, report). scripts/image.sh builds both with podman or docker; `make image` runs it.
#
#   BASE      a Python image with pip (3.11 or newer); give a digest to pin its content
#   EXTRAS    of `sidecar` only: empty is lean; `blob` lets pods write to Azure Blob themselves
#   PIP_ARGS  more arguments for pip, such as --proxy=…; an address with a password belongs into
#             the build secret `pip.conf` instead, which no layer keeps
ARG BASE=python:3.12-slim

# Wheels to build from without a network: --build-context wheelhouse=DIR puts them here.
FROM scratch AS wheelhouse

FROM ${BASE} AS source
ARG PIP_ARGS=""
ARG SOURCE_DATE_EPOCH=0
ENV PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY scripts/install_into_image.py scripts/
COPY sidecar sidecar

FROM source AS lean
ARG EXTRAS=""
RUN --mount=type=bind,from=wheelhouse,target=/wheelhouse \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    ["python", "scripts/install_into_image.py", "/opt/emissions"]

FROM source AS full
ENV EXTRAS=azure,cli,collector,injector,node-meter,report
RUN --mount=type=bind,from=wheelhouse,target=/wheelhouse \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    ["python", "scripts/install_into_image.py", "/opt/emissions"]

FROM ${BASE} AS services
COPY --from=full /opt/emissions /opt/emissions
# What is freed goes back to the system soon; by default glibc keeps ever more of it.
ENV PATH=/opt/emissions/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 MALLOC_TRIM_THRESHOLD_=131072
USER 65532:65532
ENTRYPOINT ["emissions-sidecar"]
CMD ["--help"]
ARG VERSION=""
ARG REVISION=""
ARG SOURCE=""
ARG CREATED=""
LABEL org.opencontainers.image.title="emissions-sidecar-services" \
      org.opencontainers.image.description="Injector, collector and report of emissions-sidecar." \
      org.opencontainers.image.licenses="Apache-2.0 AND ODbL-1.0 AND CC-BY-SA-4.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.created="${CREATED}"

# The last stage is what a build without --target gives.
FROM ${BASE} AS sidecar
COPY --from=lean /opt/emissions /opt/emissions
# As above; and its threads, which rarely run, share one heap.
ENV PATH=/opt/emissions/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 MALLOC_TRIM_THRESHOLD_=131072 MALLOC_ARENA_MAX=1
USER 65532:65532
ENTRYPOINT ["emissions-sidecar"]
CMD ["run"]
ARG VERSION=""
ARG REVISION=""
ARG SOURCE=""
ARG CREATED=""
LABEL org.opencontainers.image.title="emissions-sidecar" \
      org.opencontainers.image.description="Meters energy and carbon emissions beside a training job." \
      org.opencontainers.image.licenses="Apache-2.0 AND ODbL-1.0 AND CC-BY-SA-4.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.created="${CREATED}"
