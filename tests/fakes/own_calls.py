"""The calls that are made for the caller's own account, with parameters that are lawful."""

from typing import Any

TASK = "00000001/5a9ec8dd4c345d"
OWN_CALLS: dict[str, dict[str, Any]] = {
    "ClamScanner.get_scan_paths": {},
    "ClamScanner.start_scan": {"scan_type": "home"},
    "ClamScanner.get_scan_status": {},
    "ClamScanner.list_infected_files": {},
    "ClamScanner.disinfect_files": {"actions": {}, "others": "delete"},
    "ClamScanner.check_disinfection_status": {},
    "Scan.cancel": {},
    "Quarantine.list": {},
    "Quarantine.show": {"id": 1},
    "Quarantine.restore": {"ids": [1]},
    "Quarantine.delete": {"ids": [1]},
    "Quarantine.verify": {},
    "Task.list": {},
    "Task.get": {"task_id": TASK},
    "Task.undo": {"task_id": TASK},
}
