"""A web application that signs users up and leaves the e-mail to a processor.

    uvicorn examples.fastapi_signup.app:app
    python -m examples.fastapi_signup.processor     # in another terminal

Then sign somebody up, at http://127.0.0.1:8000/docs or with

    curl --json '{"name": "Ada", "email": "ada@example.com"}' http://127.0.0.1:8000/signup
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, FastAPI, HTTPException, Request, status
from pydantic import BaseModel, Field

from asynqpy import BrokerError, Client
from examples.fastapi_signup.tasks import REDIS_URL, VerifyEmail, send_verify_email


class SignUp(BaseModel):
    name: str = Field(min_length=1)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$")


class User(SignUp):
    id: str
    verified: bool = False


#: Users by e-mail address; stands for a database.
users: dict[str, User] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client serves the whole application, any number of requests at once."""
    async with Client(REDIS_URL) as client:
        app.state.client = client
        yield


def get_client(request: Request) -> Client:
    client: Client = request.app.state.client
    return client


app = FastAPI(title="Sign up", lifespan=lifespan)


@app.post("/signup", status_code=status.HTTP_201_CREATED)
async def sign_up(form: SignUp, client: Annotated[Client, Depends(get_client)]) -> User:
    """Store the user and answer at once; the verification e-mail follows."""
    if form.email in users:
        raise HTTPException(status.HTTP_409_CONFLICT, "this address is signed up already")
    user = users[form.email] = User(id=str(uuid4()), name=form.name, email=form.email)
    email = VerifyEmail(user_id=user.id, name=user.name, address=user.email)
    try:
        await client.enqueue(send_verify_email(email))
    except BrokerError as error:
        del users[form.email]
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE, "no sign-ups at the moment, please try again"
        ) from error
    return user
