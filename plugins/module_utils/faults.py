# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a module that found faults: all of them, in one message and one by one."""

from __future__ import annotations

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from ansible.module_utils.basic import AnsibleModule


def fail(module: AnsibleModule, faults: Sequence[str], **result: Any) -> NoReturn:
    """End a module with its faults.

    Args:
        module: The running module.
        faults: The faults, one sentence each. One that occurs twice is told once.
        result: More values to return.
    """
    told = list(dict.fromkeys(faults))
    end: Callable[..., NoReturn] = module.fail_json
    end(msg="\n".join(told), faults=told, **result)
