# One image per use, none of which runs as root:
#   docker build --target cpu|gpu|tpu|serve --tag personlab:TARGET .
# For builds that repeat exactly, name the base by its digest:
#   --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS base
# OpenCV needs these two.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 personlab
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
COPY . /src
WORKDIR /src

FROM base AS cpu
RUN pip install --constraint requirements.txt .
USER 1000
WORKDIR /home/personlab
ENTRYPOINT ["personlab"]

FROM base AS gpu
RUN pip install --constraint requirements.txt . 'tensorflow[and-cuda]'
USER 1000
WORKDIR /home/personlab
ENTRYPOINT ["personlab"]

FROM base AS tpu
RUN pip install --constraint requirements.txt '.[tpu,gcs,grain]'
ENV KERAS_BACKEND=jax
USER 1000
WORKDIR /home/personlab
ENTRYPOINT ["personlab"]

FROM base AS serve
RUN pip install --constraint requirements.txt '.[serve]'
USER 1000
WORKDIR /home/personlab
EXPOSE 8000
ENTRYPOINT ["personlab", "serve", "--host", "0.0.0.0"]
CMD ["--model", "/models/personlab"]
