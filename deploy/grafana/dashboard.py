"""Makes Grafana's JSON of the table in panels.py: places panels, fills in what all of them share."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
PANEL_HEIGHT = {"stat": 4}
USUAL_HEIGHT = 8


def dashboard(board):
    """The JSON of one dashboard of the table, as a dictionary."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": "Generated from deploy/grafana/panels.py: change it there.",
        "tags": ["quire"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["quire"], "title": "Quire", "asDropdown": False, "keepTime": True, "includeVars": True}],
        "templating": {"list": variables()},
        "panels": list(placed(board.rows)),
    }


def variables():
    """The datasource, and which servers and models are shown."""
    datasource = {"name": "datasource", "label": "Data", "type": "datasource", "query": "prometheus", "hide": 0}
    chain = [
        ("job", "Job", "label_values(quire_build_info, job)", "quire.*"),
        ("instance", "Server", 'label_values(quire_build_info{job=~"$job"}, instance)', ".*"),
        ("model_name", "Model", 'label_values(vllm:num_requests_running{job=~"$job"}, model_name)', ".*"),
    ]
    return [datasource] + [choice(*variable) for variable in chain]


def choice(name, label, query, every):
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": every,
        "current": {"text": "All", "value": "$__all"},
    }


def placed(rows):
    """Every row's title and panels, from left to right and from top to bottom."""
    number, top = 1, 0
    for row in rows:
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}}
        number, top, left, lowest = number + 1, top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, lowest = top + lowest, 0, 0
            height = PANEL_HEIGHT.get(panel.kind, USUAL_HEIGHT) if panel.width < 8 else USUAL_HEIGHT
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            yield {"id": number, "gridPos": place, **drawn(panel)}
            number, left, lowest = number + 1, left + panel.width, max(lowest, height)
        top += lowest


def drawn(panel):
    """What Grafana draws, without its place."""
    letters = "ABCDEFGH"
    is_heatmap = panel.kind == "heatmap"
    targets = [
        {"refId": letter, "datasource": DATASOURCE, "expr": expr, "legendFormat": legend,
         "format": "heatmap" if is_heatmap else "time_series", "range": True, "instant": False}
        for letter, (expr, legend) in zip(letters, panel.queries, strict=False)
    ]
    kind = {"stack": "timeseries"}.get(panel.kind, panel.kind)
    return {"type": kind, "title": panel.title, "description": panel.description, "datasource": DATASOURCE, "targets": targets,
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom(panel.kind)}, "overrides": []},
            "options": options(panel.kind)}


def custom(kind):
    if kind == "stack":
        return {"fillOpacity": 30, "lineWidth": 1, "stacking": {"mode": "normal"}, "showPoints": "never"}
    if kind == "timeseries":
        return {"fillOpacity": 5, "lineWidth": 1, "showPoints": "never"}
    return {}


def options(kind):
    if kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": "short"}, "color": {"scheme": "Oranges", "mode": "scheme"}, "cellGap": 1,
                "tooltip": {"mode": "single"}}
    if kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "values": False}, "colorMode": "none", "graphMode": "area"}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
