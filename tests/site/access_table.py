"""Who may do what: one row for each method of each page, route, socket and table of the admin.

A row is the status for a stranger, for another person, for the owner of what the address names, and for staff. To add
a route, add its row: `test_access_matrix.py` fails until it is here, and says what each of the four got.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """`path` names rows of the owner in braces; `statuses` are of stranger, other person, owner, staff."""

    path: str
    statuses: str
    sent: dict[str, Any] = field(default_factory=dict)
    is_json: bool = False
    #: Whether a stranger's 302 must lead to the login; doors lead elsewhere.
    needs_login: bool = True


def _api(path: str, statuses: str, **sent: Any) -> Row:
    return Row(path, statuses, sent, is_json=True)


#: Pages, by "METHOD name of the view". A stranger's 302 leads to the login. Methods that are not here answer 405.
PAGES = {
    "GET generation:studio": Row("/", "302 200 200 200"),
    "POST generation:studio": Row("/", "302 302 302 302", {"prompt": "piano", "duration_seconds": "1"}),
    "GET generation:library": Row("/library/", "302 200 200 200"),
    "GET generation:deleted": Row("/library/deleted/", "302 200 200 200"),
    # Adapters are everybody's to see and staff's to change.
    "GET generation:adapters": Row("/adapters/", "302 200 200 200"),
    "GET generation:adapter-import": Row("/adapters/import/", "302 403 403 200"),
    "POST generation:adapter-import": Row("/adapters/import/", "302 403 403 400"),
    "GET generation:adapter": Row("/adapters/{adapter}/", "302 200 200 200"),
    "GET generation:adapter-edit": Row("/adapters/{adapter}/edit/", "302 403 403 200"),
    "POST generation:adapter-edit": Row(
        "/adapters/{adapter}/edit/", "302 403 403 302", {"name": "New", "version": "2"}
    ),
    "GET generation:adapter-delete": Row("/adapters/{adapter}/delete/", "302 403 403 200"),
    "POST generation:adapter-delete": Row("/adapters/{adapter}/delete/", "302 403 403 302"),
    "POST generation:adapter-switch": Row("/adapters/{adapter}/switch/", "302 302 302 302"),
    "GET generation:adapter-try": Row("/adapters/{adapter}/try/", "302 302 302 302"),
    "POST generation:adapter-try": Row("/adapters/{adapter}/try/", "302 302 302 302"),
    "GET generation:adapter-trial": Row("/adapters/{adapter}/try/{trial}/", "302 404 200 404"),
    "POST generation:trial-cancel": Row("/trials/{trial}/cancel/", "302 404 302 404"),
    "GET generation:settings": Row("/settings/", "302 200 200 200"),
    "POST generation:switch-start": Row(
        "/settings/switch/", "302 403 403 302", {"model_id": "musicgen-demo"}
    ),
    "POST generation:switch-cancel": Row("/settings/switch/cancel/", "302 403 403 302"),
    "GET generation:switch-plan": Row("/settings/switch/musicgen-demo/", "302 403 403 200"),
    "POST generation:free-memory": Row("/settings/free-memory/", "302 403 403 302"),
    "POST generation:model-remove": Row("/settings/models/musicgen-demo/remove/", "302 403 403 302"),
    "POST registry:model-add": Row(
        "/settings/models/add/", "302 403 403 302", {"model_id": "facebook/musicgen-small"}
    ),
    # A saved config is its owner's: another person's question goes to the hub, which is not there.
    "GET memory:page": Row("/memory/?action=calculate&model=studio/saved", "302 503 200 503"),
    "GET memory:config": Row("/memory/config/", "302 302 302 302"),
    "POST memory:config": Row("/memory/config/", "302 422 422 422", {"config_for": "studio/saved"}),
    "POST memory:config-retire": Row(
        "/memory/config/retire/", "302 404 302 404", {"config_for": "studio/saved"}
    ),
    "POST memory:config-restore": Row("/memory/config/{config}/restore/", "302 404 302 404"),
    # Webhooks are their owner's alone, too.
    "GET generation:webhooks": Row("/webhooks/", "302 200 200 200"),
    "POST generation:webhooks": Row("/webhooks/", "302 200 200 200", {"url": "https://example.org/"}),
    "POST generation:webhook-delete": Row("/webhooks/{webhook}/delete/", "302 404 302 404"),
    "POST generation:webhook-enable": Row("/webhooks/{webhook}/enable/", "302 404 302 404"),
    "POST generation:webhook-test": Row("/webhooks/{webhook}/test/", "302 404 302 404"),
    "POST generation:delivery-resend": Row(
        "/webhooks/{webhook}/deliveries/{delivery}/resend/", "302 404 302 404"
    ),
    # Jobs and takes are their owner's alone: staff too finds nothing.
    "POST generation:job-cancel": Row("/jobs/{job}/cancel/", "302 404 302 404"),
    "POST generation:job-retry": Row("/jobs/{failed}/retry/", "302 404 302 404"),
    "POST generation:job-dismiss": Row("/jobs/{failed}/dismiss/", "302 404 302 404"),
    "POST generation:clip-upload": Row("/clips/", "302 302 302 302"),
    "POST generation:clip-remove": Row("/clips/{clip}/remove/", "302 404 302 404"),
    "POST generation:take-favourite": Row("/takes/{take}/favourite/", "302 404 302 404"),
    "POST generation:take-rename": Row("/takes/{take}/rename/", "302 404 302 404", {"title": "New"}),
    "POST generation:take-delete": Row("/takes/{take}/delete/", "302 404 302 404"),
    "POST generation:take-restore": Row("/takes/{take}/restore/", "302 404 302 404"),
    # The doors stand open; who is in already is led on.
    "GET login": Row("/login/", "200 302 302 302"),
    "POST login": Row("/login/", "200 302 302 302", {"username": "alice", "password": "wrong"}),
    "POST logout": Row("/logout/", "302 302 302 302", needs_login=False),
    "GET -admin/login/": Row("/admin/login/", "302 403 403 302"),
    "POST -admin/login/": Row("/admin/login/", "302 403 403 302"),
    "POST -admin/logout/": Row("/admin/logout/", "302 302 302 302", needs_login=False),
    # Somebody can log in already, so no link makes an administrator.
    "GET setup": Row("/setup/{secret}/", "410 410 410 410"),
    "POST setup": Row("/setup/{secret}/", "410 410 410 410"),
    "GET password_reset": Row("/password/", "200 200 200 200"),
    "POST password_reset": Row(
        "/password/", "302 302 302 302", {"email": "nobody@example.org"}, needs_login=False
    ),
    "GET password_reset_done": Row("/password/sent/", "200 200 200 200"),
    "GET password_reset_confirm": Row("/password/MQ/wrong-token/", "200 200 200 200"),
    "POST password_reset_confirm": Row("/password/MQ/wrong-token/", "200 200 200 200"),
    "GET password_reset_complete": Row("/password/changed/", "200 200 200 200"),
    "GET account": Row("/account/", "302 200 200 200"),
    "POST account-token-create": Row("/account/tokens/", "302 200 200 200", {"name": "x", "scope": "read"}),
    "POST account-token-revoke": Row("/account/tokens/{token}/revoke/", "302 404 302 404"),
    "GET account-password": Row("/account/password/", "302 200 200 200"),
    "POST account-password": Row("/account/password/", "302 400 400 400", {"old_password": "wrong"}),
    # Whoever probes the studio need not log in; figures are for staff.
    "GET healthz": Row("/healthz", "200 200 200 200"),
    "GET readyz": Row("/readyz", "200 200 200 200"),
    "GET metrics": Row("/metrics", "401 403 403 200"),
    "GET generation:inside": Row("/settings/inside/", "302 403 403 200"),
    # The API's documentation is a page.
    "GET api:openapi-view": Row("/api/docs", "302 200 200 200"),
    "GET api:openapi-json": Row("/api/openapi.json", "401 200 200 200"),
}

_NEW_JOB = {"prompt": "piano", "duration_seconds": 1}

#: Routes of the API, by "METHOD path" as the OpenAPI document has them.
ROUTES = {
    "GET /api/models": _api("/api/models", "401 200 200 200"),
    "GET /api/models/{model_id}": _api("/api/models/musicgen-demo", "401 200 200 200"),
    "GET /api/models/switch": _api("/api/models/switch", "401 200 200 200"),
    "POST /api/models/switch": _api("/api/models/switch", "401 403 403 200", model_id="musicgen-demo"),
    "POST /api/models/switch/stream": _api(
        "/api/models/switch/stream", "401 403 403 200", model_id="musicgen-demo"
    ),
    "POST /api/models/switch/cancel": _api("/api/models/switch/cancel", "401 403 403 409"),
    "POST /api/models/validate": _api("/api/models/validate", "401 503 200 503", model_url="studio/saved"),
    "POST /api/models/config/submit": _api(
        "/api/models/config/submit", "401 400 400 400", model_uri="studio/saved", config={"a": 1}
    ),
    "GET /api/models/config/check/{model_id}": _api(
        "/api/models/config/check/studio/saved", "401 200 200 200"
    ),
    "POST /api/models/calculate": _api("/api/models/calculate", "401 503 200 503", model_id="studio/saved"),
    "POST /api/models/analyze": _api("/api/models/analyze", "401 503 200 503", model_id="studio/saved"),
    "POST /api/models/compare": _api("/api/models/compare", "401 200 200 200", models=["studio/saved"]),
    "GET /api/models/{model_id}/config": _api("/api/models/studio/saved/config", "401 503 200 503"),
    "GET /api/adapters": _api("/api/adapters", "401 200 200 200"),
    "POST /api/adapters": _api("/api/adapters", "401 403 403 400"),
    "GET /api/adapters/{adapter_id}": _api("/api/adapters/{adapter}", "401 200 200 200"),
    "PATCH /api/adapters/{adapter_id}": _api("/api/adapters/{adapter}", "401 403 403 200", name="New"),
    "DELETE /api/adapters/{adapter_id}": _api("/api/adapters/{adapter}", "401 403 403 200"),
    "POST /api/adapters/{adapter_id}/trials": _api("/api/adapters/{adapter}/trials", "401 202 202 202"),
    "GET /api/trials/{trial_id}": _api("/api/trials/{trial}", "401 404 200 404"),
    "POST /api/generations": _api("/api/generations", "401 202 202 202", **_NEW_JOB),
    "GET /api/generations/{job_id}": _api("/api/generations/{job}", "401 404 200 404"),
    # It waits, so that its owner is told that nothing can be heard yet.
    "GET /api/generations/{job_id}/live/{variation}": _api(
        "/api/generations/{job}/live/0", "401 404 409 404"
    ),
    "POST /api/generations/{job_id}/cancel": _api("/api/generations/{job}/cancel", "401 404 202 404"),
    "GET /api/takes": _api("/api/takes", "401 200 200 200"),
    "GET /api/takes/{take_id}": _api("/api/takes/{take}", "401 404 200 404"),
    "PATCH /api/takes/{take_id}": _api("/api/takes/{take}", "401 404 200 404", is_favourite=True),
    "DELETE /api/takes/{take_id}": _api("/api/takes/{take}", "401 404 200 404"),
    "POST /api/takes/{take_id}/restore": _api("/api/takes/{take}/restore", "401 404 200 404"),
    "GET /api/takes/{take_id}/audio": _api("/api/takes/{take}/audio", "401 404 200 404"),
    "GET /api/clips": _api("/api/clips", "401 200 200 200"),
    "POST /api/clips": _api("/api/clips", "401 400 400 400"),
    "GET /api/clips/{clip_id}": _api("/api/clips/{clip}", "401 404 200 404"),
    "GET /api/clips/{clip_id}/audio": _api("/api/clips/{clip}/audio", "401 404 200 404"),
    "HEAD /api/clips/{clip_id}/audio": _api("/api/clips/{clip}/audio", "401 404 200 404"),
    # After those that need its file: that does not come back.
    "DELETE /api/clips/{clip_id}": _api("/api/clips/{clip}", "401 404 204 404"),
    "GET /api/webhooks": _api("/api/webhooks", "401 200 200 200"),
    "POST /api/webhooks": _api("/api/webhooks", "401 201 201 201", url="https://example.org/"),
    "DELETE /api/webhooks/{webhook_id}": _api("/api/webhooks/{webhook}", "401 404 204 404"),
    "POST /api/webhooks/{webhook_id}/enable": _api("/api/webhooks/{webhook}/enable", "401 404 200 404"),
    "POST /api/webhooks/{webhook_id}/test": _api("/api/webhooks/{webhook}/test", "401 404 202 404"),
    "GET /api/webhooks/{webhook_id}/deliveries": _api(
        "/api/webhooks/{webhook}/deliveries", "401 404 200 404"
    ),
    "POST /api/webhooks/{webhook_id}/deliveries/{delivery_id}/resend": _api(
        "/api/webhooks/{webhook}/deliveries/{delivery}/resend", "401 404 409 404"
    ),
    "GET /api/storage": _api("/api/storage", "401 200 200 200"),
    "HEAD /api/takes/{take_id}/audio": _api("/api/takes/{take}/audio", "401 404 200 404"),
}

#: Sockets, by path: who may connect.
SOCKETS = {"ws/studio/": "refused connected connected connected"}

#: Tables of the admin. All are for staff with the right to them; these hold rows that are somebody's own.
ADMIN_TABLES = {
    "adapters.adapter": "everybody's",
    "auth.group": "everybody's",
    "auth.user": "everybody's",
    "gated_configs.configversion": "everybody's",
    "gated_configs.hubconfig": "everybody's",
    "gated_configs.usermodelconfig": "everybody's",
    "generation.clip": "own rows",
    "generation.enginehost": "everybody's",
    "generation.job": "own rows",
    "generation.take": "own rows",
    "musicgen_site.apitoken": "own rows",
    "musicgen_site.auditentry": "everybody's",
    "registry.modelconfig": "everybody's",
}
