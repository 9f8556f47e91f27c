"""Show the runs page until Ctrl-C or SIGTERM."""

from pipeline.configuration import Config
from pipeline.web.listening import listen, url_of


def serve_runs(config: Config) -> None:
    """Serve the page on ``runs.host`` and ``runs.port``.

    Raises:
        PipelineError: the port is in use.
    """
    listener = listen(config.runs.host, config.runs.port)
    from pipeline.runs.routes import create_app
    from pipeline.runs.web_server import make_uvicorn
    from pipeline.web.access import read_api_key

    app, page = create_app(config, api_key=read_api_key(config.runs.host))
    listener.listen()
    greeting = f"runs page: {url_of(listener)}{page.path}  (Ctrl-C ends it; training is not affected)"
    make_uvicorn(app, greeting=greeting, on_exit=page.stop).run(sockets=[listener])
