# llm4dsr in an image of its own: no compiler in it, no root, and no network when it runs.
#
#   docker build -t llm4dsr .
#   docker run --rm -v "$PWD:/data" -v llm4dsr:/cache llm4dsr clean in.jsonl out.jsonl --catalog catalog.jsonl
#
# Where this file was written no Docker daemon ran, so it has not been built there; docs/installing.md says what was tried.
FROM python:3.11-slim AS build
# Without the instructions of the building machine alone, so that the image runs on others; CUDA and the like go here, too.
ARG CMAKE_ARGS="-DGGML_NATIVE=off"
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
# llama.cpp takes minutes and changes with this file alone.
COPY pyproject.toml .
RUN python -m venv /opt/llm4dsr \
 && /opt/llm4dsr/bin/pip install --no-cache-dir "$(grep -oE 'llama-cpp-python[^"]*' pyproject.toml | head -n 1)"
COPY README.md LICENSE ./
COPY models models
COPY llm4dsr_cli llm4dsr_cli
RUN /opt/llm4dsr/bin/pip install --no-cache-dir .

FROM python:3.11-slim
# OpenMP, with which llama.cpp is built on Linux.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 llm4dsr \
 && install -d -m 700 -o llm4dsr /cache
COPY --from=build /opt/llm4dsr /opt/llm4dsr
ENV PATH=/opt/llm4dsr/bin:$PATH LLM4DSR_CACHE=/cache
USER llm4dsr
RUN llm4dsr models pull smollm2-135m-instruct
WORKDIR /data
ENTRYPOINT ["llm4dsr"]
CMD ["--help"]
