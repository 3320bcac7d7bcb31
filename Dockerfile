# A worker for any program: `docker run IMAGE [OPTION... --] PROGRAM [ARGUMENT...]` is
# `pyqueue work $QUEUE [OPTION...] -- PROGRAM [ARGUMENT...]`. Yours is four lines:
#
#     FROM pyqueue
#     COPY process.sh ./
#     ENV QUEUE=job2
#     CMD ["./process.sh", "{}"]
#
# There is no program by default: any at all would empty the queue when yours was forgotten.
# The classic builder will do (DOCKER_BUILDKIT=0).

# Any image with Python 3.11 or newer, its venv module and pip. To pin it: --build-arg BASE=python@sha256:...
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
# Your mirror of the package index, if you have one. It does not get into the image, nor into its history.
ARG PIP_INDEX_URL
WORKDIR /src
# Everything that is installed below comes from /wheels, and everything there is checked by hash or made from /src.
COPY requirements/image.txt ./
RUN pip wheel --require-hashes --requirement image.txt --wheel-dir /wheels
COPY pyproject.toml README.md LICENSE ./
COPY lua ./lua
COPY pyqueue ./pyqueue
# hadolint ignore=DL3013,DL3042
RUN pip wheel --no-index --find-links /wheels --no-deps --wheel-dir /wheels . \
    && python3 -m venv --without-pip --system-site-packages /opt/pyqueue \
    && pip --python /opt/pyqueue/bin/python install --no-index --find-links /wheels 'pyqueue-redis[cli,fast]'

FROM ${BASE}
RUN groupadd --gid 10001 pyqueue && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp pyqueue
COPY --from=build /opt/pyqueue /opt/pyqueue
# `python` is that of /opt/pyqueue: it sees pyqueue, and also what an image made from this one adds by pip.
ENV PATH=/opt/pyqueue/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
# By number, for Kubernetes' runAsNonRoot. Nothing is written: --read-only is fine.
USER 10001:10001
# The shell only looks up $QUEUE and then is pyqueue: SIGTERM arrives. Arguments that begin with a dash are options of
# `pyqueue work`, and bring their own --.
ENTRYPOINT ["/bin/sh", "-c", "case $1 in -*) ;; *) set -- -- \"$@\" ;; esac; exec pyqueue work \"$QUEUE\" \"$@\"", "pyqueue"]
