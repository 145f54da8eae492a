"""What the server says about itself: models, health, metrics, and its OpenAPI document."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.server.errors import ApiError
from runtime.server.metrics import CONTENT_TYPE
from runtime.server.replies import Health, ModelCard, ModelList
from runtime.server.served import ServedModel
from runtime.server.service import Service


async def list_models(request: Request) -> Response:
    """All models."""
    models = Service.of(request).models.by_name.values()
    reply: ModelList = {"object": "list", "data": [_card(model) for model in models]}
    return JSONResponse(reply)


async def get_model(request: Request) -> Response:
    """One model."""
    return JSONResponse(_card(Service.of(request).models.find(request.path_params["model"])))


async def health(request: Request) -> Response:
    """Whether answers are given; nobody is asked for a key."""
    if any(not model.worker.is_alive for model in Service.of(request).models.by_name.values()):
        raise ApiError("an engine has stopped; restart the server", status=503, code="unhealthy")
    reply: Health = {"status": "ok"}
    return JSONResponse(reply)


async def metrics(request: Request) -> Response:
    """For Prometheus."""
    service = Service.of(request)
    return Response(await service.in_thread(service.metrics.text), media_type=CONTENT_TYPE)


def _card(model: ServedModel) -> ModelCard:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "pocketspec",
        "context": model.engine.capacity,
    }
