"""Known vulnerabilities of the packages in a requirements file, by pip-audit. Run: python .ci/audit.py requirements.lock

Exit code 1 where one is found or pip-audit cannot do its work. Where the advisory service cannot be reached, or knows none
of the packages (a mirror without advisories answers so, and pip-audit then reports success), it says SKIPPED: nothing was
checked.
"""

import json
import re
import subprocess
import sys

UNREACHABLE = re.compile(r"requests\.exceptions\.\w+|Could not connect|not redirecting properly")


def verdict(stdout: str, stderr: str) -> tuple[int, str]:
    """(exit code, what to print) from what pip-audit printed."""
    lines = stderr.strip().splitlines() or ["pip-audit says nothing"]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
    if not stdout.strip():
        if UNREACHABLE.search(last):
            return 0, f"audit: SKIPPED, nothing was checked: the advisory service cannot be reached ({last[:120]})"
        return 1, f"audit: pip-audit failed: {last[:300]}"
    packages = json.loads(stdout)["dependencies"]
    checked = [p for p in packages if "vulns" in p]
    unknown = [p["name"] for p in packages if "vulns" not in p]
    found = [
        f"audit: {p['name']} {p['version']}: {v['id']}, fixed in {', '.join(v['fix_versions']) or 'no version yet'}"
        for p in checked
        for v in p["vulns"]
    ]
    if found:
        return 1, "\n".join(found)
    if not checked:
        return 0, f"audit: SKIPPED, nothing was checked: the advisory service knows none of the {len(unknown)} packages"
    rest = f"; not checked, as the service does not know them: {', '.join(unknown)}" if unknown else ""
    return 0, f"audit: no known vulnerability in {len(checked)} packages{rest}"


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--requirement", sys.argv[1], "--no-deps", "--disable-pip"]
    more = ["--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    done = subprocess.run([*command, *more], capture_output=True, text=True)
    code, text = verdict(done.stdout, done.stderr)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
