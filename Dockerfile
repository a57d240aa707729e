# The gateway: docker-compose.yml runs it behind Mosquitto. Alone:
#   docker build -t bot-gateway:local . && docker run -v gateway:/data -p 127.0.0.1:8080:8080 bot-gateway:local
FROM python:3.12-slim-bookworm AS build
COPY requirements.lock requirements-build.lock /src/
RUN python -m venv /opt/bot-gateway && \
    /opt/bot-gateway/bin/pip install --no-cache-dir --require-hashes --only-binary :all: \
    -r /src/requirements-build.lock -r /src/requirements.lock
COPY pyproject.toml LICENSE /src/
COPY gateway /src/gateway
# the build backend is in a lock, so this fetches nothing
RUN /opt/bot-gateway/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM python:3.12-slim-bookworm
# the user id of the eclipse-mosquitto image: the two share the file with the broker's password
RUN useradd --system --uid 1883 --user-group --no-create-home --shell /usr/sbin/nologin bot-gateway && \
    install -d -o bot-gateway -g bot-gateway -m 700 /data
COPY --from=build /opt/bot-gateway /opt/bot-gateway
ENV PATH=/opt/bot-gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    BOTGW_DATA_DIR=/data \
    BOTGW_WEBSOCKET__LISTEN=0.0.0.0:8080
USER bot-gateway
WORKDIR /data
EXPOSE 8080 8081 1883
ENTRYPOINT ["bot-gateway"]
CMD ["serve"]
