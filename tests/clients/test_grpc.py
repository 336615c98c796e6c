"""The official gRPC client: reflection, health, and an answer, with nothing but what the server tells of itself."""

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from conftest import KEY, free_port, running, wait_for

AUTHORIZED = (("authorization", f"Bearer {KEY}"),)


class WithKey(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Sends the key with every call, reflection's own included."""

    def add(self, continuation, details, request):
        return continuation(details._replace(metadata=AUTHORIZED), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = add


@pytest.fixture(scope="module")
def server():
    port = free_port()
    with running("--grpc-port", str(port)) as server:
        server.grpc_address = f"127.0.0.1:{port}"
        yield server


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield grpc.intercept_channel(channel, WithKey())


@pytest.fixture
def inference(channel):
    """Calls a method of quire.v1.Inference, whose contract the server itself describes."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"quire.v1.Inference", "grpc.health.v1.Health"} <= set(database.get_services())
    pool = descriptor_pool.DescriptorPool(database)
    service = pool.FindServiceByName("quire.v1.Inference")

    def call(name, **fields):
        method = service.FindMethodByName(name)
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        response = message_factory.GetMessageClass(method.output_type)
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        path = f"/{service.full_name}/{name}"
        function = kind(path, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString)
        return function(request, timeout=300)

    return call


def test_health_needs_no_key(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ["", "quire.v1.Inference", "vllm.Inference", "vllm.Control"]:
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_without_a_key_nothing_is_answered(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        call = channel.unary_unary("/quire.v1.Inference/Models")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"")
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_the_answer_is_that_of_http(server, inference):
    chat = {"messages": [{"role": "user", "content": "What is the capital of Italy?"}]}
    params = {"temperature": 0, "max_tokens": 24}
    whole = inference("Generate", chat=chat, sampling_params=params)
    over_http = server.client().chat.completions.create(model="default", **chat, **params)
    assert whole.answers[0].text == over_http.choices[0].message.content
    assert whole.num_prompt_tokens == over_http.usage.prompt_tokens
    events = list(inference("GenerateStream", chat=chat, sampling_params=params))
    assert "".join(event.delta.text for event in events) == whole.answers[0].text
    assert [event.WhichOneof("event") for event in events[:2]] == ["started", "delta"]
    assert events[-1].WhichOneof("event") == "finished"


def test_a_cancelled_call_frees_its_place(server, inference):
    stream = inference("GenerateStream", text="Once upon a time", sampling_params={"ignore_eos": True, "max_tokens": 4000})
    assert next(stream).WhichOneof("event") == "started"
    assert server.metric("vllm:num_requests_running") >= 1
    stream.cancel()
    wait_for(lambda: server.metric("vllm:num_requests_running") == 0, 10, "the call has ended")
