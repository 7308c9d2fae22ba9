"""A server of these tests, which does to a client what servers do on bad days; and AsyncClient with the face of Client."""

import asyncio
import contextlib
import itertools
import threading
from concurrent import futures

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from headlines.client import AsyncClient
from headlines.v1 import popularity_pb2, popularity_pb2_grpc

INVALID = grpc.StatusCode.INVALID_ARGUMENT


class Servicer(popularity_pb2_grpc.PopularityServiceServicer, health_pb2_grpc.HealthServicer):
    """Answers a headline by its length, so that a test sees which answer belongs to which; `bad` is a bad headline."""

    def __init__(self):
        self.requests = []
        self.streams = 0
        self.metadata = {}
        self.peers = set()  # the connections that calls came by
        self.rows = 1024  # of all headlines of a request to explain, of which each takes one for each character
        self.words = "on purpose"
        self.description = "is bad"
        self.outlets = []
        self.model = {}  # further fields of GetModel's answer
        self.explanation = popularity_pb2.Explanation(
            words=[popularity_pb2.WordEffect(word="four", main_effect=0.25, aux_effect=-0.125, end=4)],
            outlet_effect=0.5,
            time_effect=-0.25,
        )
        self.failures = []  # status codes with which the next calls end
        self.break_after = []  # after how many answers each of the next streams ends
        self.lock = threading.Lock()
        self.hold = threading.Event()
        self.hold.set()

    def answer(self, headlines):
        violations = [
            (f"headlines[{i}].text", self.description) for i, headline in enumerate(headlines) if headline.text == "bad"
        ]
        predictions = [
            popularity_pb2.Prediction(main_output=0.75, aux_output=0.25, word_count=len(h.text), outlet_known=bool(h.outlet))
            for h in headlines
        ]
        return violations, popularity_pb2.PredictResponse(predictions=predictions, model_version=7)

    def fail(self, context):
        self.metadata = dict(context.invocation_metadata())
        self.peers.add(context.peer())
        with self.lock:
            code = self.failures.pop(0) if self.failures else None
        if code:
            context.abort(code, self.words)

    def Predict(self, request, context):  # noqa: N802
        with self.lock:
            self.requests.append(request)
        self.hold.wait(10)
        self.fail(context)
        violations, response = self.answer(request.headlines)
        if violations:
            self.refuse(context, violations)
        return response

    def refuse(self, context, violations):
        detail = Any()
        detail.Pack(BadRequest(field_violations=[BadRequest.FieldViolation(field=f, description=d) for f, d in violations]))
        context.abort_with_status(rpc_status.to_status(Status(code=INVALID.value[0], message="malformed", details=[detail])))

    def Explain(self, request, context):  # noqa: N802
        with self.lock:
            self.requests.append(request)
        self.hold.wait(10)
        self.fail(context)
        violations, response = self.answer(request.headlines)
        for i, rows in enumerate(itertools.accumulate(len(h.text) for h in request.headlines)):
            if rows > self.rows and not violations:
                violations = [(f"headlines[{i}]", "takes too many rows")]
        if violations:
            self.refuse(context, violations)
        explanations = []
        for prediction in response.predictions:
            explanation = popularity_pb2.Explanation(prediction=prediction)
            explanation.MergeFrom(self.explanation)
            explanations.append(explanation)
        return popularity_pb2.ExplainResponse(explanations=explanations, model_version=7)

    def PredictStream(self, requests, context):  # noqa: N802
        self.streams += 1
        self.hold.wait(10)
        self.fail(context)
        limit = self.break_after.pop(0) if self.break_after else None
        for i, request in enumerate(requests):
            if i == limit:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection has grown old")
            self.requests.append(request)
            violations, response = self.answer(request.headlines)
            if violations:
                error = popularity_pb2.Error(code=INVALID.value[0], message="malformed")
                for field, description in violations:
                    error.violations.add(field=field, description=description)
                yield popularity_pb2.PredictStreamResponse(id=request.id, error=error)
            else:
                yield popularity_pb2.PredictStreamResponse(id=request.id, response=response)

    def GetModel(self, request, context):  # noqa: N802, ARG002
        self.fail(context)
        return popularity_pb2.GetModelResponse(name="headline-popularity", version=7, outlets=self.outlets, **self.model)

    def Check(self, request, context):  # noqa: N802
        self.metadata = dict(context.invocation_metadata())
        self.peers.add(context.peer())
        assert not request.service
        return health_pb2.HealthCheckResponse(status="SERVING" if not self.failures else "NOT_SERVING")


class Raw(grpc.GenericRpcHandler):
    """Answers with the bytes that it is given."""

    def __init__(self, response=b"", stream=(), status=None, waits=None):
        self.response, self.stream, self.status, self.waits = response, stream, status, waits

    def service(self, details):
        if details.method.endswith("PredictStream"):
            return grpc.stream_stream_rpc_method_handler(self.streaming)
        return grpc.unary_unary_rpc_method_handler(self.unary)

    def unary(self, request, context):  # noqa: ARG002
        if self.status:
            code, details, trailers = self.status
            context.set_trailing_metadata(trailers)
            context.abort(code, details)
        return self.response

    def streaming(self, requests, context):  # noqa: ARG002
        next(requests)
        yield from self.stream
        for _ in requests:
            pass
        if self.waits:
            self.waits.wait(60)


@contextlib.contextmanager
def serving(servicer, port=0, **options):
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[(f"grpc.{name}", value) for name, value in options.items()])
    popularity_pb2_grpc.add_PopularityServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


class Plainly:
    """AsyncClient with the face of Client, so that each test runs against both."""

    def __init__(self, target, **settings):
        self.client = AsyncClient(target, **settings)
        self.loop = asyncio.new_event_loop()

    def __getattr__(self, name):
        method = getattr(self.client, name)
        return lambda *args, **kwargs: self.loop.run_until_complete(method(*args, **kwargs))

    def predict_stream(self, *args, **kwargs):
        answers = self.client.predict_stream(*args, **kwargs)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield self.loop.run_until_complete(anext(answers))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.loop.run_until_complete(self.client.close())
        self.loop.close()


def texts(count):
    return ["x" * (1 + i % 40) for i in range(count)]


def word_counts(answers):
    return [answer.word_count for answer in answers]
