"""A picture of the top of a page, by a headless Chromium: picture.py PAGE.html PICTURE.png [WIDTH HEIGHT]"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

MAX_BYTES = 150_000


def main(page, picture, width="1180", height="900"):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        sys.exit("chromium is not installed (Debian: apt-get install chromium)")
    page, picture = pathlib.Path(page).resolve(), pathlib.Path(picture).resolve()
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--disable-background-networking", f"--user-data-dir={profile}"]
        command += [f"--window-size={width},{height}", f"--screenshot={picture}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    size = picture.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{picture} has {size} bytes, more than {MAX_BYTES}: take a smaller part")
    print(f"{picture}: {size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
